import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import io.netty.channel.Channel;
import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import org.h2.mvstore.MVStore;

/**
 * A MongoDB-wire server over one H2 file, on loopback or where the property `bind` says. Arguments: file, port, commit
 * interval in ms; and for TLS the files with its certificate and its EC key (PKCS#8), both in PEM.
 */
public final class MongoMain {
    public static void main(String[] args) throws Exception {
        MVStore store = new MVStore.Builder().fileName(args[0]).open();
        // H2 writes once a second by itself; mongod's journal is the model: see provisioner.py.
        store.setAutoCommitDelay(Integer.parseInt(args[2]));
        MongoServer server = new MongoServer(new Journalled(store));
        if (args.length > 3) {
            server.enableSsl(key(args[4]), null, certificate(args[3]));
        }
        server.bind(System.getProperty("bind", "127.0.0.1"), Integer.parseInt(args[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println("ready " + server.getConnectionString());
    }

    private static X509Certificate certificate(String file) throws Exception {
        try (InputStream in = new FileInputStream(file)) {
            return (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
    }

    private static PrivateKey key(String file) throws Exception {
        String pem = Files.readString(Path.of(file)).replaceAll("-----[A-Z ]+-----", "").replaceAll("\\s", "");
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
    }

    /** Answers a write that asks for the journal or a majority once it is in the file: a kill -9 loses none of those. */
    private static final class Journalled extends H2Backend {
        Journalled(MVStore store) {
            super(store);
        }

        @Override
        public Document handleCommand(Channel channel, String database, String command, Document query) {
            // H2 forgets old versions after a while; a long read of one fails with "Chunk not found" unless it is in use.
            MVStore.TxCounter inUse = getMvStore().registerVersionUsage();
            Document answer;
            try {
                answer = super.handleCommand(channel, database, command, query);
            } finally {
                getMvStore().deregisterVersionUsage(inUse);
            }
            if (query.get("writeConcern") instanceof Document concern
                    && (Boolean.TRUE.equals(concern.get("j")) || "majority".equals(concern.get("w")))) {
                getMvStore().commit();
                // What a commit of the background has taken along is in the file when nothing is under way.
                getMvStore().executeFilestoreOperation(() -> {});
            }
            return answer;
        }
    }
}
